//! The lab: real programs in network namespaces. Needs root.

mod enclosure;
