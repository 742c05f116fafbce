"""The run configuration. Every key has a bound and a reader; importing it imports nothing heavy."""
