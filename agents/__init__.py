"""The carriers: Faust agents, transports, the command line and all else that touches the outside world."""
