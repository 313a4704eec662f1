"""The sections of a plant profile: words for people, and modalities."""
