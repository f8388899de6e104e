//! Real programs do their work unharmed: first without a router, then through both ways of one.

use crate::harness::{Lab, Profiles, Router, Way, eventually, executable, probe, told};

in_all_ways! {
    curl_brings_100_mib_unharmed_over_both_families,
    a_large_body_goes_up_unharmed,
    git_clones_over_http,
    ssh_carries_a_session,
    either_side_may_close_its_half_first,
    what_a_program_wrote_last_still_arrives,
    dig_asks_over_udp_and_tcp,
    python_fetches_by_name_and_by_address,
    two_hundred_connections_talk_at_once,
    ping_gets_its_echoes,
    datagrams_come_back_on_every_address,
}

through_a_router! {
    each_flow_is_recorded_with_its_program_name_and_bytes,
}

/// Runs a story in a lab of its own.
fn in_a_lab(way: Way, story: impl Fn(&Lab, &Router<'_>)) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    story(&lab, &Router::start(&lab, way, &profiles));
}

fn curl_brings_100_mib_unharmed_over_both_families(way: Way) {
    in_a_lab(way, |lab, router| {
        let file = lab.dir().join("www/100m.bin").display().to_string();
        let wanted = lab.internet().run(["sha256sum", &file]).expect_success();
        for url in ["http://203.0.113.10/100m.bin", "http://[2001:db8::10]/100m.bin", "http://example.com/100m.bin"] {
            let command = format!("set -o pipefail; curl -sS --fail --max-time 60 '{url}' | sha256sum");
            let got = router.run(["bash", "-c", &command]).expect_success();
            assert_eq!(got.split_whitespace().next(), wanted.split_whitespace().next(), "{url}");
        }
    });
}

fn a_large_body_goes_up_unharmed(way: Way) {
    in_a_lab(way, |lab, router| {
        let file = lab.dir().join("www/100m.bin").display().to_string();
        let wanted = lab.internet().run(["sha256sum", &file]).expect_success();
        for address in [Lab::SERVER_4, Lab::SERVER_6] {
            let command = format!("socat -t60 STDIO 'TCP:{}:8007' <'{file}'", bracketed(address));
            let told = router.run(["bash", "-c", &command]).expect_success();
            assert_eq!(told.split_whitespace().nth(1), wanted.split_whitespace().next(), "{address}");
        }
    });
}

fn git_clones_over_http(way: Way) {
    in_a_lab(way, |lab, router| {
        for (number, url) in
            ["http://203.0.113.10/repo.git", "http://[2001:db8::10]/repo.git", "http://example.com/repo.git"].iter().enumerate()
        {
            let clone = lab.dir().join(format!("clone-{number}"));
            router.run(["git".as_ref(), "clone".as_ref(), "-q".as_ref(), url.as_ref(), clone.as_os_str()]).expect_success();
            let [original, copy] =
                [lab.dir().join("work/blob"), clone.join("blob")].map(|file| std::fs::read(file).expect("git made the file"));
            assert!(original == copy, "{url}: the blob differs");
        }
    });
}

fn ssh_carries_a_session(way: Way) {
    in_a_lab(way, |lab, router| {
        for address in [Lab::SERVER_4, Lab::SERVER_6, "example.com"] {
            let [known, key] = ["known_hosts", "user_key"].map(|file| lab.dir().join(file).display().to_string());
            let known = format!("UserKnownHostsFile={known}");
            let target = format!("root@{address}");
            let words = [
                "ssh",
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                &known,
                "-i",
                &key,
                "-p",
                "2222",
                &target,
                "cat; echo over ssh",
            ];
            assert_eq!(router.run(words).expect_success(), "over ssh\n", "{address}");
        }
    });
}

fn either_side_may_close_its_half_first(way: Way) {
    in_a_lab(way, |lab, router| {
        for address in [Lab::SERVER_4, Lab::SERVER_6] {
            let sent = router.run(probe(&["halfclose", address, "3"])).expect_success();
            arrived(lab, &sent);
        }
    });
}

fn what_a_program_wrote_last_still_arrives(way: Way) {
    in_a_lab(way, |lab, router| {
        for address in [Lab::SERVER_4, Lab::SERVER_6] {
            let sent = router.run(probe(&["halfclose", address, "0"])).expect_success();
            arrived(lab, &sent);
        }
    });
}

/// Waits until the server that closes its half first has read all of this.
fn arrived(lab: &Lab, sent: &str) {
    let received = lab.dir().join("log/8008");
    eventually("what was sent into a half-closed connection arrives", || {
        let text = std::fs::read_to_string(&received).ok()?;
        (text.trim() == sent.trim()).then_some(())
    });
    std::fs::remove_file(&received).expect("the server wrote the file");
}

fn dig_asks_over_udp_and_tcp(way: Way) {
    in_a_lab(way, |_, router| {
        for flag in ["+notcp", "+tcp"] {
            let told = router.run(["dig", flag, "+short", "+tries=1", "+time=20", "A", "example.com"]).expect_success();
            assert_eq!(told, "203.0.113.10\n", "{flag}");
            let told = router.run(["dig", flag, "+short", "+tries=1", "+time=20", "AAAA", "other.example.com"]).expect_success();
            assert_eq!(told, "2001:db8::11\n", "{flag}");
        }
        let big = router.run(["dig", "+short", "TXT", "big.example.com"]).expect_success();
        assert_eq!(big.lines().count(), 40, "a truncated answer is asked for again over TCP");
        let chain = router.run(["dig", "+short", "chain.example.com"]).expect_success();
        assert_eq!(chain, "one.example.test.\ntwo.example.test.\n203.0.113.11\n");
        let missing = router.run(["dig", "nothing.invalid"]).expect_success();
        assert!(missing.contains("status: NXDOMAIN"), "{missing}");
    });
}

fn python_fetches_by_name_and_by_address(way: Way) {
    in_a_lab(way, |_, router| {
        let fetch =
            "import sys, urllib.request as r\nfor url in sys.argv[1:]: print(r.urlopen(url, timeout=30).read().decode(), end='')";
        let urls = [
            "http://example.com/hello",
            "http://v6.example.com/hello",
            "http://203.0.113.11/hello",
            "http://[2001:db8::11]:8080/hello",
        ];
        let told = router.run(["/usr/bin/python3", "-c", fetch].into_iter().chain(urls)).expect_success();
        assert_eq!(told, "hello from the lab\n".repeat(urls.len()));
    });
}

fn two_hundred_connections_talk_at_once(way: Way) {
    in_a_lab(way, |_, router| {
        for address in [Lab::SERVER_4, Lab::SERVER_6, "example.com"] {
            assert_eq!(router.run(probe(&["many", address, "200"])).expect_success(), "OK 200\n", "{address}");
        }
    });
}

fn ping_gets_its_echoes(way: Way) {
    in_a_lab(way, |_, router| {
        for address in [Lab::SERVER_4, Lab::SERVER_6, "example.com"] {
            let told = router.run(["ping", "-c", "3", "-W", "10", address]).expect_success();
            assert!(told.contains("3 received"), "{address}: {told}");
        }
    });
}

fn datagrams_come_back_on_every_address(way: Way) {
    in_a_lab(way, |_, router| {
        for address in [Lab::SERVER_4, Lab::OTHER_4, Lab::SERVER_6, Lab::OTHER_6] {
            let answer = told(router.run(probe(&["datagram", address, "7"])));
            assert_eq!(answer.said, "OK", "{address}");
        }
    });
}

fn each_flow_is_recorded_with_its_program_name_and_bytes(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    router.run(["curl", "-sS", "http://other.example.com/hello"]).expect_success();
    let curl = executable("curl").display().to_string();
    let flow = router.record("curl's flow", |record| record.proto == "tcp" && record.end.is_some());
    assert_eq!(flow.exe.as_deref(), Some(curl.as_str()), "{way:?}");
    assert_eq!(flow.name.as_deref(), Some("other.example.com"), "{way:?}");
    assert_eq!(flow.verdict, "accept", "{way:?}");
    assert!(flow.bytes_up > 50 && flow.bytes_down > 200, "{way:?}: {flow:?}");
    let question = router.record("curl's question", |record| record.proto == "dns");
    assert_eq!((question.exe.as_deref(), question.name.as_deref()), (Some(curl.as_str()), Some("other.example.com")), "{way:?}");
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
