//! (room)
mod sockdiag;

pub use sockdiag::SocketTable;
