//! One question to a DNS server: tests run in the cluster's network with the machine's own `resolv.conf`.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// The first IPv4 address of `name` at `server`. `None` where there is none or no answer within a second.
pub(super) async fn resolve(server: IpAddr, name: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    socket.send_to(&question(name), (server, 53)).await.ok()?;
    let mut answer = [0; 512];
    let length = timeout(Duration::from_secs(1), socket.recv(&mut answer))
        .await
        .ok()?
        .ok()?;
    address(answer.get(..length)?)
}

/// A recursive question for type A, class IN (RFC 1035, section 4).
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x5a, 0x5a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The data of the answer's first record of type A.
fn address(message: &[u8]) -> Option<Ipv4Addr> {
    let count = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    let mut at = after_name(message, 12)? + 4;
    for _ in 0..count {
        at = after_name(message, at)?;
        let head = message.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, &[a, b, c, d]) = (u16::from_be_bytes([head[0], head[1]]), data) {
            return Some(Ipv4Addr::new(a, b, c, d));
        }
        at += 10 + length;
    }
    None
}

/// Where the name that begins at `at` has ended; a pointer ends it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_behind_the_question_and_an_alias() {
        let mut message = question("a.bc");
        message[7] = 2;
        // An alias of type 5, then the address, both with a pointer for a name.
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 12]);
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 198, 19, 0, 10]);
        assert_eq!(address(&message), Some(Ipv4Addr::new(198, 19, 0, 10)));
        message[7] = 1;
        assert_eq!(address(&message), None);
    }
}
