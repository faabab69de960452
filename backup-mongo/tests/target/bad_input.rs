//! What goes wrong is said, and nothing else suffers from it.
