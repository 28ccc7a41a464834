"""What drivers share that read a file or a block device of this host."""
