"""What all rooms share: command line, files written whole, stopping, threads and memory of the process."""
