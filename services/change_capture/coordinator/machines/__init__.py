"""VMs as groups of volumes: how one is protected, and how its disks are followed."""
