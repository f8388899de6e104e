//! The accept path allocates nothing.

use portreeve::profile::Level;
use portreeve::verdict::{Epoch, Verdict, decide};

use super::super::counting::allocations;
use super::world::{OPEN, Put, question, set, to, user};

#[test]
fn an_accepted_case_allocates_nothing() {
    let many: Vec<String> = (0..2000).map(|n| format!("\"- host{n}.example\", \"- 10.{}.{}.0/24\"", n / 256, n % 256)).collect();
    let fallback = format!("endpoints = [{}]\n{OPEN}", many.join(", "));
    let policy = set(&[
        (
            "user/tool.toml",
            &user(
                "endpoints = [\"+ .good.example TCP/443\"]\n[flags]\nrelated = true\nstrict = true\n[labels]\nblock = [\"tracker\"]",
            ),
        ),
        ("labels/t.toml", "label = \"tracker\"\nnames = [\".tracker.example\"]\nnetworks = [\"198.51.100.0/24\"]"),
        ("fallback.toml", &fallback),
    ]);
    let other = "/usr/bin/other";
    let cases: [Put; 7] = [
        to("192.0.2.1:443").named("www.good.example"),
        to("192.0.2.1:443").named("www.tool.com"),
        to("[2001:db8::1]:443").chained("tool.com", &["a.cdn.example", "b.cdn.example"]),
        to("192.0.2.1:443").by(other).named("a.example").named("b.example"),
        to("[2001:db8::1]:443").by(other).proto(17).at(Level::Fortress),
        to("192.168.1.1:22").by(other).inbound(),
        question("www.tool.com"),
    ];
    for put in cases {
        let subject = put.subject(&policy);
        let case = put.case(&subject);
        assert_eq!(decide(&policy, &case).verdict, Verdict::Accept, "{put:?}");
        let count = allocations(|| {
            let decision = decide(&policy, &case);
            assert!(decision.permit(Epoch(1)).is_some());
        });
        assert_eq!(count, 0, "{put:?}");
    }
}
