"""Driver `qemu`: dirty bitmaps and copy-before-write of a process that serves disks with QEMU."""
