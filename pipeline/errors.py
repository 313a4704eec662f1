"""The one exception tree: every error that a user can cause says what was wrong, where, and what to do.

FaultlineError
├── SettingsError              a setting is missing or invalid
├── ProfileError               a plant profile cannot be read or contradicts itself
├── RecordingError             a recording is missing, broken or not a recording
├── CertificateError           a run differs from the one that a certificate is about
├── ModelFileError             a model file is missing, broken or does not fit the profile
├── StateError                 a saved stream state belongs to another model or version
├── DataError                  training or evaluation data is missing or malformed
├── MissingExtraError          an optional dependency is not installed
├── DeliveryError              an output or a state could not be handed to the broker
│   └── NoProgressError        a process was at the same thing for too long
├── GroupInUseError            another application uses the consumer group
├── UnexpectedError            a fault of this software, or of a library
├── BrokerUnavailableError     no broker answers at the given address, or none can be started
├── TopicMismatchError         topics are missing or have the wrong shape
├── AuthorizationError         the broker refuses the credentials or the operation
└── PortInUseError             a port that Faultline should listen on is taken
"""

from __future__ import annotations


class FaultlineError(Exception):
    """Base of all errors that Faultline raises on purpose; its text is fit to show to a user."""

    exit_code = 1
    """With which a command ends that raises it (docs/operations/life-of-a-worker.md)."""


class SettingsError(FaultlineError):
    """A setting is missing or invalid."""


class ProfileError(FaultlineError):
    """A plant profile cannot be read or contradicts itself."""


class RecordingError(FaultlineError):
    """A recording is missing, broken or not a recording."""


class CertificateError(FaultlineError):
    """A run differs from the one that a certificate is about."""


class ModelFileError(FaultlineError):
    """A model file is missing, broken or does not fit the profile."""


class StateError(FaultlineError):
    """A saved stream state belongs to another model, profile or version."""


class DataError(FaultlineError):
    """Training or evaluation data is missing or malformed."""


class MissingExtraError(FaultlineError):
    """An optional dependency is not installed."""


class DeliveryError(FaultlineError):
    """An output or a state could not be handed to the broker."""


class NoProgressError(DeliveryError):
    """A process was at the same thing for too long; another start may help."""

    exit_code = 3


class GroupInUseError(FaultlineError):
    """Another application uses the consumer group."""


class UnexpectedError(FaultlineError):
    """A fault of this software, or of a library that it uses."""

    exit_code = 4


class BrokerUnavailableError(FaultlineError):
    """No broker answers at the given address, or none can be started here."""


class TopicMismatchError(FaultlineError):
    """Topics are missing or have the wrong shape."""


class AuthorizationError(FaultlineError):
    """The broker refuses the credentials or the operation."""


class PortInUseError(FaultlineError):
    """A port that Faultline should listen on is taken."""
