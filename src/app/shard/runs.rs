//! Datagrams that follow each other: of one flow, one size and one set of marks they move as one.
//!
//! Keeps one rule: a run is what `UDP_SEGMENT` takes, datagrams of one size of which the last may be shorter, so that nobody on either
//! side can tell. A run lasts no longer than the batch that it is made of. Runs leave in the order in which they began: a host on the way that
//! limits how often it answers tells a traceroute of the first probes, as without us.

use std::collections::VecDeque;

use super::rush::BATCH;
use crate::flow::FlowId;
use crate::packet::Marks;

/// Flows that may have a run at a time: as many as a common batch has flows, so that what they say first leaves in one go. Who takes it on
/// the other side then wakes up once, not once a flow.
const RUNS: usize = BATCH;
/// Memory of runs that is kept for the next ones.
const SPARE: usize = 8;
/// The kernel cuts no more at a time (`UDP_MAX_SEGMENTS`, include/linux/udp.h, at its lowest).
const MAX_DATAGRAMS: usize = 64;
/// The most that fits into one packet of either family.
const MAX_BYTES: usize = 65_507;
/// Larger ones gain nothing by waiting for each other.
const WORTH_WAITING: usize = 2048;

/// How many bytes there are, and of which size the datagrams are: the rule of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) len: usize,
    size: usize,
    count: usize,
    closed: bool,
}

impl Shape {
    /// Whether one more datagram of `len` bytes may join.
    pub(super) fn takes(&self, len: usize) -> bool {
        let fits = self.len + len <= MAX_BYTES && self.count < MAX_DATAGRAMS;
        self.count == 0 || (!self.closed && fits && len > 0 && len <= self.size)
    }

    /// Counts a datagram that [`Shape::takes`] allows.
    pub(super) fn add(&mut self, len: usize) {
        if self.count == 0 {
            self.size = len;
        }
        self.closed = len < self.size || len == 0 || len > WORTH_WAITING;
        self.len += len;
        self.count += 1;
    }

    /// Datagrams of `size` bytes that came together already.
    pub(super) fn together(len: usize, size: usize) -> Self {
        Self { len, size, count: len.div_ceil(size.max(1)), closed: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The size of the datagrams, where there are several.
    pub(super) fn segment(&self) -> Option<u16> {
        u16::try_from(self.size).ok().filter(|_| self.count > 1)
    }
}

/// Datagrams of one flow on their way up.
pub(super) struct Run {
    pub(super) id: FlowId,
    pub(super) marks: Marks,
    pub(super) shape: Shape,
    bytes: Vec<u8>,
}

impl Run {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The runs of one batch, by the flow's slot.
#[derive(Default)]
pub(super) struct Runs {
    places: [Option<Run>; RUNS],
    /// The places that are taken, in the order in which their runs began.
    order: VecDeque<usize>,
    /// Memory of runs that have gone.
    spare: Vec<Vec<u8>>,
}

impl Runs {
    /// Adds a datagram to its flow's run, or begins one; a run that has to go first is returned.
    pub(super) fn add(&mut self, id: FlowId, marks: Marks, data: &[u8]) -> Option<Run> {
        let index = id.index() % RUNS;
        let place = self.places.get_mut(index)?;
        if let Some(run) = place
            && run.id == id
            && run.marks == marks
            && run.shape.takes(data.len())
        {
            run.shape.add(data.len());
            run.bytes.extend_from_slice(data);
            return None;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(data);
        let mut shape = Shape::default();
        shape.add(data.len());
        let before = place.replace(Run { id, marks, shape, bytes });
        if before.is_some() {
            self.order.retain(|other| *other != index);
        }
        self.order.push_back(index);
        before
    }

    /// Takes the run out that began first.
    pub(super) fn pop(&mut self) -> Option<Run> {
        let index = self.order.pop_front()?;
        self.places.get_mut(index)?.take()
    }

    /// Gives the memory of a run back.
    pub(super) fn done(&mut self, run: Run) {
        if self.spare.len() < SPARE {
            self.spare.push(run.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &[usize]) -> Option<Shape> {
        let mut shape = Shape::default();
        for size in sizes {
            if !shape.takes(*size) {
                return None;
            }
            shape.add(*size);
        }
        Some(shape)
    }

    #[test]
    fn datagrams_of_one_size_go_together_and_a_shorter_one_is_the_last() {
        assert_eq!(shape(&[1400, 1400, 1400]).expect("a run").segment(), Some(1400));
        assert_eq!(shape(&[1400, 1400, 3]).expect("a run").len, 2803);
        assert_eq!(shape(&[1400, 3, 3]), None);
        assert_eq!(shape(&[1400, 1401]), None);
    }

    #[test]
    fn a_single_datagram_has_no_segments_whatever_its_size() {
        for size in [0, 1, 1400, 65_507] {
            assert_eq!(shape(&[size]).expect("any datagram begins a run").segment(), None);
        }
    }

    #[test]
    fn empty_and_large_datagrams_go_alone() {
        assert_eq!(shape(&[0, 0]), None);
        assert_eq!(shape(&[10, 0]), None);
        assert_eq!(shape(&[9000, 9000]), None);
    }

    fn marks() -> Marks {
        Marks { hop_limit: 64, traffic_class: 0, dont_fragment: true }
    }

    fn id(index: usize) -> FlowId {
        FlowId::for_test(index, u64::try_from(index).expect("small"))
    }

    fn left(runs: &mut Runs) -> Vec<usize> {
        std::iter::from_fn(|| runs.pop()).map(|run| run.id.index()).collect()
    }

    #[test]
    fn runs_of_a_whole_batch_of_flows_wait_and_every_one_is_taken_out_once() {
        let mut runs = Runs::default();
        assert!((0..BATCH).all(|index| runs.add(id(index), marks(), b"first").is_none()));
        assert!(runs.add(id(3), marks(), b"again").is_none(), "it joins");
        let pushed = runs.add(id(3 + BATCH), marks(), b"first").expect("the place is another's");
        assert_eq!((pushed.id, pushed.bytes()), (id(3), &b"firstagain"[..]));
        assert_eq!(left(&mut runs), (0..3).chain(4..BATCH).chain([3 + BATCH]).collect::<Vec<usize>>());
        assert!(runs.pop().is_none());
    }

    #[test]
    fn runs_leave_in_the_order_in_which_they_began_whatever_their_places() {
        let mut runs = Runs::default();
        for _ in 0..2 {
            for index in [9, 7, 8, 2] {
                assert!(runs.add(id(index), marks(), b"first").is_none());
            }
            assert!(runs.add(id(9), marks(), b"again").is_none());
            assert_eq!(left(&mut runs), [9, 7, 8, 2]);
        }
    }

    #[test]
    fn a_run_ends_before_it_is_too_large_for_the_kernel() {
        assert_eq!(shape(&[1400; 46]).expect("64 400 bytes").len, 64_400);
        assert_eq!(shape(&[1400; 47]), None);
        assert!(shape(&[100; 64]).is_some() && shape(&[100; 65]).is_none());
    }
}
