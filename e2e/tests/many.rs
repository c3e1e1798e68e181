//! More models than a machine could keep awake.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use pilotlight_e2e::{Ask, LIMIT, Load, Manifest, Settings, Up, places, processes, until};

const MODELS: usize = 200;
const AWAKE: usize = 20;

#[tokio::test]
async fn of_two_hundred_models_only_those_asked_for_have_processes() {
    let up = Up::start_only(&Settings::default()).await;
    let names: Vec<String> = (0..MODELS).map(|n| format!("model-{n}")).collect();
    for (n, chunk) in names.chunks(20).enumerate() {
        let documents = chunk
            .iter()
            .map(|name| Manifest::new(name, places::example("iris.onnx")).yaml());
        up.save_text(
            &format!("models-{n}.yaml"),
            &documents.collect::<Vec<_>>().join("---\n"),
        );
    }
    let deployed = until("all are deployed", LIMIT * 2, async || {
        let services = up.services().await;
        services.len() == MODELS && services.iter().all(|item| item["ready"] == true)
    })
    .await;
    println!("{MODELS} models deployed in {:.1} s", deployed.as_secs_f64());
    up.no_process_left(LIMIT).await;

    let awake: Vec<String> = names.iter().step_by(MODELS / AWAKE).cloned().collect();
    let asks: Vec<Ask> = awake.iter().map(|name| Ask::flowers(up.predict_url(name))).collect();
    let woken = join_all(asks.iter().map(Ask::send)).await;
    let lost: Vec<String> = woken.into_iter().filter_map(Result::err).collect();
    assert_eq!(lost, Vec::<String>::new());

    let load = Load::start(4, Duration::from_millis(5), move |client, nth| {
        asks[(client * 5 + nth) % AWAKE].clone()
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let found: BTreeSet<String> = up.runtimes().into_iter().map(|runtime| runtime.model).collect();
    let names: BTreeSet<String> = found
        .iter()
        .filter_map(|model| Some(model.split_once('=')?.0.to_owned()))
        .collect();
    assert_eq!(names, awake.into_iter().collect());
    load.stop().await.assert_none_lost(100);

    let mib = processes::resident_bytes(up.pid()) / (1 << 20);
    println!("`up` holds {mib} MiB");
    assert!(mib < 256, "`up` holds {mib} MiB");
}
