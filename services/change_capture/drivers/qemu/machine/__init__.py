"""The definition of a VM as a volume: asked at the cut of its disks, and read as an archive."""
