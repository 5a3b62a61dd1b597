package ruleset

// Share has the target work as on kernels where nobody can own a table.
func (t *CaptureTarget) Share() *CaptureTarget {
	t.tables.shared = true
	return t
}

// Share has the target work as on kernels where nobody can own a table.
func (t *ClampTarget) Share() *ClampTarget {
	t.tables.shared = true
	return t
}
