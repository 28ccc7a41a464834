"""The catalog event log, and notifications, which are appended to it."""
