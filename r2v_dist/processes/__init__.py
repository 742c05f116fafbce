"""Commands that run as children, and how a process is known again; Ray is started by
`cluster.session`."""
