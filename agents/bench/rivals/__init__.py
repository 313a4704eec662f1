"""Programs that `faultline bench stream` measures Faultline beside; each runs by itself, in a Python of its own."""
