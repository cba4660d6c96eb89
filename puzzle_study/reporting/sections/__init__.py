"""The parts of a report, one module each: study data in, paragraphs, tables and figures out."""
