"""The sections of a report, one module each, from study data to paragraphs, tables and figures."""
