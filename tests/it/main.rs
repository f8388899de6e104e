#[cfg(feature = "edges")]
mod resolver;
