"""Why a machine is as it is: what the topics and a worker's metrics say of it, and what would have to happen next."""
