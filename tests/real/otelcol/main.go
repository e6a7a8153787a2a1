// The OpenTelemetry Collector for femtomp's tests: upstream's own components, as Debian
// packages them, and stand-ins for those of the contrib repository, which Debian lacks.
//
// A stand-in takes any settings and refuses to run: `validate` checks a configuration
// that names it, but for its own section.
package main

import (
	"context"
	"errors"
	"log"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

var errStandIn = errors.New("only a stand-in for a component of the contrib repository")

// anything is a section of which nothing is checked.
type anything map[string]any

func (a *anything) Unmarshal(conf *confmap.Conf) error {
	*a = conf.ToStringMap()
	return nil
}

func settings() component.Config { return &anything{} }

func exporterStandIn(name string) exporter.Factory {
	return exporter.NewFactory(component.MustNewType(name), settings,
		exporter.WithLogs(func(context.Context, exporter.Settings, component.Config) (exporter.Logs, error) {
			return nil, errStandIn
		}, component.StabilityLevelDevelopment))
}

func extensionStandIn(name string) extension.Factory {
	return extension.NewFactory(component.MustNewType(name), settings,
		func(context.Context, extension.Settings, component.Config) (extension.Extension, error) {
			return nil, errStandIn
		}, component.StabilityLevelDevelopment)
}

func factories() (f otelcol.Factories, err error) {
	f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return f, err
	}
	f.Processors, err = otelcol.MakeFactoryMap[processor.Factory](
		batchprocessor.NewFactory(), memorylimiterprocessor.NewFactory())
	if err != nil {
		return f, err
	}
	f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		debugexporter.NewFactory(), otlpexporter.NewFactory(), otlphttpexporter.NewFactory(),
		exporterStandIn("file"), exporterStandIn("kafka"))
	if err != nil {
		return f, err
	}
	f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		newKeeping(), extensionStandIn("health_check"))
	f.Telemetry = otelconftelemetry.NewFactory()
	return f, err
}

func main() {
	providers := []confmap.ProviderFactory{
		envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory()}
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{
			Command: "otelcol", Description: "Collector for femtomp's tests", Version: "debian"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{ProviderFactories: providers}},
	})
	if err := command.Execute(); err != nil {
		log.Fatal(err)
	}
}
