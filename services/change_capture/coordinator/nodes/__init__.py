"""Who is a node: enrolment, announcements, and what operators see of nodes."""
