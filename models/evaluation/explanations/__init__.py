"""Why a model answered as it did: contributions of variables, texts, components and modalities to one answer."""
