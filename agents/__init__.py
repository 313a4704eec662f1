"""The carriers: Faust agents, transports, the command line and everything else that touches the outside world."""
