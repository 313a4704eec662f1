"""The experiment of Li et al. (2022): one label per run from an LSTM's last step and from one text, fused late."""
