"""What pages get: documents of plain values, as JSON."""
