//! After SIGKILL of the router: closed, then `cleanup` makes everything as it was.

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, connect, eventually, hold};
use crate::whole::{settle, state};

#[test]
fn a_killed_router_lets_nothing_out() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    let mut talks: Vec<_> = [Lab::SERVER_4, Lab::SERVER_6].iter().map(|address| lab.laptop().spawn(hold(address))).collect();
    for talk in &mut talks {
        assert_eq!(talk.line(), "talking");
    }
    router.daemon().take().expect("the daemon was started").kill();
    // What the kernel had taken over from the router may still leave: FIN or RST of its own sockets.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let capture = Capture::start(&lab, "killed");
    for address in [Lab::OTHER_4, Lab::OTHER_6] {
        assert_ne!(connect(&router, address, 80).said, "OK", "{address}");
    }
    router.run(["dig", "+tries=1", "+time=1", "example.com"]);
    router.run(["ping", "-c1", "-W1", Lab::OTHER_4]);
    router.run(["ping", "-c1", "-W1", Lab::OTHER_6]);
    // The positive control comes last: `cleanup` opens the way again.
    router.verb(&["cleanup"]).expect_success();
    lab.laptop().run(["curl", "-sS", "http://198.51.100.10/hello"]).expect_success();
    let control = Seen::tcp("198.51.100.10", 80);
    // The old conversations' sockets try again once the way is open; they belong to the laptop, not to the router.
    let old = [Seen::tcp(Lab::SERVER_4, 7), Seen::tcp(Lab::SERVER_6, 7)];
    capture.stop_with_only(&[control], &old);
}

#[test]
fn cleanup_restores_everything_byte_for_byte() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.run(["curl", "-sS", "http://example.com/hello"]).expect_success();
    router.daemon().take().expect("the daemon was started").kill();
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(state(&lab), before);
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(state(&lab), before, "a second cleanup changes nothing");
    router.verb(&["status"]).expect_code(3);
}

#[test]
fn status_says_that_a_killed_router_left_the_machine_closed_until_it_is_cleaned_up() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    let json = |router: &Router<'_>| router.verb(&["status", "--json"]).stdout;
    router.daemon().take().expect("the daemon was started").kill();
    eventually("nobody listens any more", || (router.verb(&["status"]).code() == 3).then_some(()));
    let told = router.verb(&["status"]).stdout;
    assert!(told.contains("machine is closed") && told.contains("portreeve up") && told.contains("portreeve cleanup"), "{told}");
    assert_eq!(json(&router), "{\"state\":\"inactive\",\"left_behind\":true,\"closed\":true}\n");
    assert_ne!(connect(&router, Lab::SERVER_4, 80).said, "OK", "and so it is");
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(json(&router), "{\"state\":\"inactive\",\"left_behind\":false,\"closed\":false}\n");
    assert!(!router.verb(&["status"]).stdout.contains("closed"));
    assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "OK");
}

#[test]
fn up_after_a_kill_takes_over() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.daemon().take().expect("the daemon was started").kill();
    router.up(&[]);
    eventually("traffic flows again", || (router.run(["curl", "-sS", "http://example.com/hello"]).code() == 0).then_some(()));
    router.verb(&["down"]).expect_success();
    router.daemon().take().expect("the daemon was started").finish();
    assert_eq!(state(&lab), before);
}
