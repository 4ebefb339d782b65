"""Networks at work: loading, prediction, localization, panels."""
