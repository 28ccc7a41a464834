"""Definitions of VMs: what is kept of them beside their disks, and how they are started again."""
