#!/bin/sh
# What Spark on Kubernetes asks of an image: `driver …` and `executor`, each told the rest by its environment.
# Anything else is a command. tini -g hands a signal to Python as well as to the JVM that started it.
set -eu

case "${1:-}" in
driver)
	shift
	set -- "$SPARK_HOME/bin/spark-submit" --deploy-mode client \
		--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
		--conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" "$@"
	;;
executor)
	set -- org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
		--driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
		--app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
		--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
	set -- -Xms"$SPARK_EXECUTOR_MEMORY" -Xmx"$SPARK_EXECUTOR_MEMORY" \
		-cp "${SPARK_CONF_DIR:+$SPARK_CONF_DIR:}$SPARK_HOME/jars/*" "$@"
	# SPARK_JAVA_OPT_0, _1 … in their order, before all others; each is one argument, whatever is in it.
	n=0
	while eval "[ -n \"\${SPARK_JAVA_OPT_$n+x}\" ]"; do n=$((n + 1)); done
	while [ "$n" -gt 0 ]; do
		n=$((n - 1))
		eval "set -- \"\$SPARK_JAVA_OPT_$n\" \"\$@\""
	done
	set -- "$JAVA_HOME/bin/java" "$@"
	;;
esac
exec tini -g -- "$@"
