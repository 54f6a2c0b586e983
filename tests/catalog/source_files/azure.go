package pricing
// generated at 2026-11-19T03:43:41Z
func init() {
	// westeurope
	initialOnDemandPrices["westeurope"] = map[string]float64{
		"Standard_ND96isr_H100_v5":   120.000000,
		"Dadsv5_Type1":               8.008000,
	}
}
