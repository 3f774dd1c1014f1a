"""Heat maps: what part of a picture a score comes from, and whether that is where the finding is."""
