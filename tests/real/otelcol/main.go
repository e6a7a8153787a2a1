// The OpenTelemetry Collector for femtomp's tests: upstream's own components, as Debian
// packages them, and stand-ins for those of the contrib repository, which Debian lacks.
//
// A stand-in takes any settings, and fails when it is started: `validate` checks all of a
// configuration that names it but what is its own. Queue, retries and timeout, which
// exporters have in common, are upstream's here too.
package main

import (
	"context"
	"errors"
	"log"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
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

// sending is what is checked of an exporter's section.
type sending struct {
	Timeout exporterhelper.TimeoutConfig                             `mapstructure:",squash"`
	Queue   configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
	Retries configretry.BackOffConfig                                `mapstructure:"retry_on_failure"`
	Others  map[string]any                                           `mapstructure:",remain"`
}

func sendingSettings() component.Config {
	return &sending{
		Timeout: exporterhelper.NewDefaultTimeoutConfig(),
		Queue:   configoptional.Default(exporterhelper.NewDefaultQueueConfig()),
		Retries: configretry.NewDefaultBackOffConfig(),
	}
}

func exporterStandIn(name string) exporter.Factory {
	push := func(context.Context, plog.Logs) error { return errStandIn }
	start := func(context.Context, component.Host) error { return errStandIn }
	return exporter.NewFactory(component.MustNewType(name), sendingSettings,
		exporter.WithLogs(func(ctx context.Context, set exporter.Settings, given component.Config) (exporter.Logs, error) {
			s := given.(*sending)
			return exporterhelper.NewLogs(ctx, set, given, push, exporterhelper.WithStart(start),
				exporterhelper.WithTimeout(s.Timeout), exporterhelper.WithQueue(s.Queue),
				exporterhelper.WithRetry(s.Retries))
		}, component.StabilityLevelDevelopment))
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
		newKeeping())
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
