"""The sections of a plant profile beside its machine types: words for people, modalities, alarms and areas."""
