package pricing
// generated at 2026-11-20T13:44:30Z for us-east-1
var InitialOnDemandPrices = map[string]map[types.InstanceType]float64{
	// us-east-1
	"us-east-1": {
		"p5.48xlarge": 50.000000, "m8g.large": 0.089760,
		"m9x.large": 0.100000, "m9x.metal-24xl": 5.100000, "q9.4xlarge": 9.000000,
		"g6f.xlarge": 0.237500, "m9g.large": 0.050000,
	},
	"moon-1": {"m8g.large": 0.1},
}
