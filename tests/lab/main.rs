//! Stories that need root and namespaces of their own.

mod control;
