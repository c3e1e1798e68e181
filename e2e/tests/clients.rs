//! Real clients, unchanged: Triton's, over REST and gRPC, through the activator, from a model that sleeps.

use pilotlight_e2e::{Manifest, Up, places, python};

#[tokio::test]
async fn tritons_clients_get_from_the_platform_what_they_get_from_triton() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    let address = up.http().to_string();
    let script = move || python::script("clients.py", &[&*address, "iris"], b"");
    let said = tokio::task::spawn_blocking(script).await.expect("the script ran");
    assert_eq!(String::from_utf8_lossy(&said), "ok\n", "{}", up.log());
}
