//! Many at once: a crowd at a sleeping model, many sleeping models.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use pilotlight_e2e::{
    Ask, client,
    cluster::{Cluster, Namespace},
};

#[tokio::test]
async fn a_hundred_at_a_sleeping_model_of_one_request_a_pod_are_all_answered() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "hundred").await;
    let service = home.service("slow", "slow.onnx").concurrency(1).max(5);
    home.deploy(&[service]).await;
    home.asleep("slow").await;

    let url = home.predict_url("slow");
    let asks = (0..100).map(|n| Ask {
        url: url.clone(),
        body: client::slow_v1(f64::from(n)),
        answer: client::slow_v1_answer(f64::from(n)),
    });
    let answered = AtomicBool::new(false);
    let all = async {
        let answers = join_all(asks.map(|ask| async move { ask.send().await.map(drop) })).await;
        answered.store(true, Ordering::Relaxed);
        answers
    };
    let (answers, most) = tokio::join!(all, most_pods(&home, "slow", &answered));
    let lost: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(
        lost.is_empty(),
        "{} lost: {:#?}",
        lost.len(),
        &lost[..lost.len().min(5)]
    );
    assert!((2..=5).contains(&most), "{most} pods");
}

#[tokio::test]
async fn what_several_activators_give_one_pod_beyond_its_limit_is_tried_again_and_answered() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "excess").await;
    // One place, and each of three activators has to have one: the runtime refuses two thirds of what comes at a time.
    home.deploy(&[home.service("slow", "slow.onnx").concurrency(1).min(1).max(1)])
        .await;
    home.settled("slow", 1).await;
    let url = home.predict_url("slow");
    let asks = (0..30).map(|n| Ask {
        url: url.clone(),
        body: client::slow_v1(f64::from(n)),
        answer: client::slow_v1_answer(f64::from(n)),
    });
    let answers = join_all(asks.map(|ask| async move { ask.send().await.map(drop) })).await;
    let lost: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The most pods of a service that were seen at a time until all was answered and for some seconds more.
async fn most_pods(home: &Namespace, service: &str, answered: &AtomicBool) -> usize {
    let (mut most, mut after) = (0, 0);
    while after < 6 {
        most = most.max(home.pods(service).await.len());
        after += usize::from(answered.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    most
}

#[tokio::test]
async fn twenty_models_wake_side_by_side() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "twenty").await;
    let names: Vec<String> = (0..20).map(|n| format!("iris-{n}")).collect();
    let services: Vec<_> = names.iter().map(|name| home.service(name, "iris.onnx")).collect();
    home.deploy(&services).await;
    for name in &names {
        home.asleep(name).await;
    }

    let asks = names.iter().map(|name| home.flowers(name));
    let answers = join_all(asks.map(|ask| async move { ask.send().await.map(drop) })).await;
    let lost: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}
