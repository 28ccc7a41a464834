"""Parts of sessions, each worked on by an attempt: state, work, and what keeps it alive."""
