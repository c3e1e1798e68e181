//! What can only be wrong between documents: names and hosts that two services claim.

use std::collections::HashMap;

use crate::{Fault, Service};

/// What is wrong between services that are right one by one: the same `namespace/name` twice, or one host name for two
/// services (`{name}-{namespace}.{domain}` of `a-b` in `c` and of `a` in `b-c`). A fault stands at the later of the two in the
/// order given (at its `Source`'s file and line) and names the file and line of the other.
pub fn check_set(services: &[Service], domain: &str) -> Vec<Fault> {
    let mut names: HashMap<String, &Service> = HashMap::new();
    let mut hosts: HashMap<String, &Service> = HashMap::new();
    let mut faults = Vec::new();
    for service in services {
        if let Some(first) = names.get(&service.key()) {
            let message = format!(
                "{} is declared twice, first in {}: rename or remove one of the two",
                service.key(),
                place(first)
            );
            faults.push(fault(service, message));
            continue;
        }
        names.insert(service.key(), service);
        let mut taken = None;
        for host in service.hosts(domain) {
            match hosts.get(&host) {
                Some(first) => taken = taken.or(Some((host, *first))),
                None => {
                    hosts.insert(host, service);
                }
            }
        }
        if let Some((host, first)) = taken {
            let message = format!(
                "the host {host} belongs to {} already, declared in {}: rename one of the two",
                first.key(),
                place(first)
            );
            faults.push(fault(service, message));
        }
    }
    faults
}

fn place(service: &Service) -> String {
    format!("{}:{}", service.source.file.display(), service.source.line)
}

fn fault(service: &Service, message: String) -> Fault {
    let field = "metadata.name".to_owned();
    Fault {
        file: service.source.file.clone(),
        line: service.source.line,
        field,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parse;

    fn services(names: &[(&str, &str)]) -> Vec<Service> {
        let of = |(name, namespace): &(&str, &str)| {
            let text = format!(
                "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{predictor: {{model: {{modelFormat: {{name: onnx}}, storageUri: m.onnx}}}}}}\n"
            );
            parse(&text, Path::new(&format!("/{name}.yaml"))).services
        };
        names.iter().flat_map(of).collect()
    }

    fn messages(names: &[(&str, &str)]) -> Vec<String> {
        check_set(&services(names), "example.com")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn different_services_are_fine() {
        assert_eq!(messages(&[("a", "x"), ("b", "x"), ("a", "y")]), [""; 0]);
    }

    #[test]
    fn a_name_declared_twice_names_both_places() {
        let expected =
            "/a.yaml:1: metadata.name: x/a is declared twice, first in /a.yaml:1: rename or remove one of the two";
        assert_eq!(messages(&[("a", "x"), ("a", "x")]), [expected]);
    }

    #[test]
    fn a_host_claimed_twice_names_both_places() {
        let expected = "/a.yaml:1: metadata.name: the host a-b-c.example.com belongs to c/a-b already, declared in /a-b.yaml:1: \
                        rename one of the two";
        assert_eq!(messages(&[("a-b", "c"), ("a", "b-c")]), [expected]);
    }
}
