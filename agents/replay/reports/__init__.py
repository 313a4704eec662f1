"""Reports: how well a plant was diagnosed and alarmed, as numbers and as one page."""
