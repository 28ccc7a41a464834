"""How the filters of several nodes that write one disk keep one frozen view of it: at the lead."""
