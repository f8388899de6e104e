//! A TUN with several queues: what one thread carries, four carry as well, and they answer as one.

use serde_json::Value;

use crate::harness::{Lab, Profiles, Router, Way, datagrams, eventually, executable, hold, probe};

through_a_router! {
    four_queues_carry_what_one_carries,
    a_question_of_several_queues_is_put_once,
    a_reload_cuts_flows_of_every_queue,
}

const FOUR: &str = "queues = 4\n";
/// Enough connections that some go through every queue.
const MANY: usize = 12;

fn status(router: &Router<'_>) -> Value {
    eventually("the router answers", || {
        let told = router.verb(&["status", "--json"]);
        (told.code() == 0).then(|| serde_json::from_str(&told.expect_success()).expect("status is one object"))
    })
}

/// The threads of the router that carry packets.
fn carriers(router: &Router<'_>) -> usize {
    let pid = status(router).get("pid").and_then(Value::as_u64).expect("status tells the process");
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the router runs");
    let name = |thread: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok();
    threads.filter_map(name).filter(|name| name == "packets\n").count()
}

fn four_queues_carry_what_one_carries(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, way, &profiles, Some(FOUR));
    let mut held = router.spawn(hold(Lab::SERVER_4));
    assert_eq!(held.line(), "talking");
    // A thread has its name as soon as it runs, which one without packets need not have done yet.
    eventually("four threads carry packets", || (carriers(&router) == 4).then_some(()));
    for address in [Lab::SERVER_4, Lab::SERVER_6, "example.com"] {
        assert_eq!(router.run(probe(&["many", address, "200"])).expect_success(), "OK 200\n", "{way:?} {address}");
        let echoes = router.run(["ping", "-c", "2", "-s", "8000", "-W", "10", address]).expect_success();
        assert!(echoes.contains("2 received"), "{way:?} {address}: {echoes}");
    }
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        let sizes = router.run(datagrams(&["sizes", address])).expect_success();
        assert_eq!(sizes.trim(), "[1, 1400, 1472, 1473, 9000, 65507]", "{way:?} {address}");
    }
}

fn a_question_of_several_queues_is_put_once(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("curl", &executable("curl"), "endpoints = [\"? ask.example.net\", \"+ *\"]");
    let router = Router::start_with(&lab, way, &profiles, Some(FOUR));
    let one = "curl -sS --max-time 60 http://ask.example.net/hello & ".repeat(MANY);
    let asking = router.spawn(["sh", "-c", &format!("{one} wait")]);
    let waiting = || status(&router).get("flows_pending").and_then(Value::as_u64);
    eventually("every connection waits", || (waiting()? >= u64::try_from(MANY).ok()?).then_some(()));
    let listed = router.verb(&["prompt", "list", "--json"]).expect_success();
    let prompts: Vec<Value> = serde_json::Deserializer::from_str(&listed).into_iter().map(|value| value.expect("JSON")).collect();
    let prompts = if let [Value::Array(inner)] = &prompts[..] { inner.clone() } else { prompts };
    assert_eq!(prompts.len(), 1, "{way:?}: {listed}");
    let id = prompts[0].get("id").expect("a prompt has an id").to_string();
    router.verb(&["prompt", "allow", &id]).expect_success();
    let (ended, said) = asking.finish();
    assert!(ended.success(), "{way:?}");
    assert_eq!(said, "hello from the lab\n".repeat(MANY), "{way:?}");
}

fn a_reload_cuts_flows_of_every_queue(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, way, &profiles, Some(FOUR));
    let words: Vec<String> = hold(Lab::SERVER_4).iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let one = format!("{} & ", words.join(" ")).repeat(MANY);
    let mut held = router.spawn(["sh", "-c", &format!("{one} wait")]);
    (0..MANY).for_each(|_| assert_eq!(held.line(), "talking", "{way:?}"));
    profiles.fallback("mode = \"whitelist\"\n");
    let told = router.verb(&["reload"]);
    assert_eq!(told.code(), 0, "{way:?}");
    let open = || status(&router).get("flows_open").and_then(Value::as_u64);
    eventually("no flow is open", || (open()? == 0).then_some(()));
    held.kill();
}
