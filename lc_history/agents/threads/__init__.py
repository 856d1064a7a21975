"""What is done with whole threads: listed, told as a transcript, copied, removed, sealed anew."""
