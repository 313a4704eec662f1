"""The states that an agent holds: restoring and writing them, and what does not depend on its engine."""
