//! The accept path allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portreeve::profile::Level;
use portreeve::verdict::{Epoch, Verdict, decide};

use super::world::{OPEN, Put, question, set, to, user};

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on unchanged to the system's allocator, which keeps the contract; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1_u8)))), 1);
}

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
