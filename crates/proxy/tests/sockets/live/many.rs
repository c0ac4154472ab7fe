//! Many flows at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tunnels_end_together_and_a_thousand_stay() {
    const EACH: usize = 500;
    let limits = Limits { connections: 5000, ..Limits::default() };
    let (world, origin) = (World::with(Setup { limits, ..Setup::default() }).await, Origin::echo().await);
    let (mut ending, mut staying) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        ending.push(tunnel(&world, &format!("example.com:{}", origin.port)).await);
        staying.push(tunnel(&world, &format!("a.example.org:{}", origin.port)).await);
    }
    assert_eq!(world.proxy.flows().len(), 2 * EACH);
    let changed = Instant::now();
    world.proxy.replace(Rules { allow: vec!["*.example.org"], ..Rules::new(8) }.snapshot());
    for tunnel in &mut ending {
        read_to_reset(tunnel).await;
    }
    assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    decided_again(&world, 8).await;
    for tunnel in &mut staying {
        echoes(tunnel).await;
    }
    while world.proxy.flows().len() > EACH {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_without_a_change_fail_nothing() {
    let (world, pages, echo) = (World::start().await, Origin::pages().await, Origin::echo().await);
    let client = async || {
        let mut stream = world.connect().await;
        let mut lasting = tunnel(&world, &format!("example.com:{}", echo.port)).await;
        for _ in 0..50 {
            stream.write_all(get(pages.port, "1.1").as_bytes()).await.unwrap();
            assert!(read_response(&mut stream).await.ends_with("hello"));
            echoes(&mut tunnel(&world, &format!("a.example.org:{}", echo.port)).await).await;
            echoes(&mut lasting).await;
        }
    };
    let mut revision = 7;
    let reloads = async {
        loop {
            revision += 1;
            world.proxy.replace(Rules::new(revision).snapshot());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = reloads => {}
        _ = async { tokio::join!(client(), client(), client(), client()) } => {}
    }
    assert!(revision > 10, "{revision} reloads");
}
