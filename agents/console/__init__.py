"""The console: a plant's diagnoses, alarms and evidence in a browser, and what people do about them."""
