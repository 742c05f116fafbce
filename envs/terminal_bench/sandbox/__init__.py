"""The back end `sandbox`: terminals in bubblewrap, with no daemon and nothing on the disk."""
