//! The control socket end to end: our server and our client, our server and strangers, our server and our binary.

mod binary;
mod fake;
mod strangers;
mod verbs;
