{{/*
The SparkApplication's spec before `sparkApplication` is merged over it. What Spark's configuration cannot say of
pods is in `template`: with one the operator needs no webhook, and its webhook leaves the pod alone.
*/}}
{{- define "spike.spec" -}}
{{- $name := include "spike.name" . }}
{{- $platform := .Values.platform }}
type: Python
pythonVersion: "3"
mode: cluster
sparkVersion: {{ $platform.sparkVersion | quote }}
image: {{ .Values.image | default $platform.image | quote }}
imagePullPolicy: {{ .Values.imagePullPolicy | default $platform.imagePullPolicy | quote }}
{{- with $platform.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
mainApplicationFile: local:///opt/spike/driver.py
arguments:
  - /etc/spike/applications/{{ .Values.name }}.yaml
restartPolicy:
  type: Always
  onFailureRetryInterval: {{ $platform.retryIntervalSeconds }}
  onSubmissionFailureRetryInterval: {{ $platform.retryIntervalSeconds }}
sparkConf: {{- mergeOverwrite (include "spike.sparkConf" . | fromYaml) $platform.sparkConf (.Values.sparkConf | default dict) | toYaml | nindent 2 }}
{{- with mergeOverwrite (dict) $platform.hadoopConf (.Values.hadoopConf | default dict) }}
hadoopConf: {{- toYaml . | nindent 2 }}
{{- end }}
driver:
  {{- include "spike.size" (list . "driver") | nindent 2 }}
  serviceAccount: {{ $name | quote }}
  template:
    spec:
      {{- include "spike.pod" (list . "driver") | nindent 6 }}
      containers:
        - name: spark-kubernetes-driver
          {{- include "spike.container" . | nindent 10 }}
          env:
            - name: SPIKE_DRIVER_ID
              # the supervisor knows a driver by its submission, which the operator puts on the pod
              valueFrom: { fieldRef: { fieldPath: "metadata.labels['sparkoperator.k8s.io/submission-id']" } }
            - { name: SPIKE_METRICS_PORT, value: "9464" }
            {{- include "spike.environment" . | nindent 12 }}
          ports:
            - { name: spike-metrics, containerPort: 9464, protocol: TCP }
          volumeMounts:
            - { name: spike-application, mountPath: /etc/spike/applications, readOnly: true }
            - { name: spike-token, mountPath: /var/run/secrets/spike, readOnly: true }
            - { name: spike-state, mountPath: /var/lib/spike }
      volumes:
        - name: spike-application
          configMap: { name: {{ include "spike.file" . | quote }} }
        - {{- include "spike.token.volume" . | nindent 10 }}
        - name: spike-state
          emptyDir: {}
executor:
  {{- include "spike.size" (list . "executor") | nindent 2 }}
  instances: {{ .Values.executor.instances }}
  serviceAccount: {{ $name | quote }}
  template:
    spec:
      {{- include "spike.pod" (list . "executor") | nindent 6 }}
      containers:
        - name: spark-kubernetes-executor
          {{- include "spike.container" . | nindent 10 }}
{{- end }}

{{/* What Spark itself is told of a driver or executor, and the version it was made from. */}}
{{- define "spike.size" -}}
{{- $root := index . 0 }}{{ $part := get $root.Values (index . 1) }}
cores: {{ $part.cores }}
{{- with $part.coreRequest }}
coreRequest: {{ . | quote }}
{{- end }}
{{- with $part.coreLimit }}
coreLimit: {{ . | quote }}
{{- end }}
memory: {{ $part.memory | quote }}
{{- with $part.memoryOverhead }}
memoryOverhead: {{ . | quote }}
{{- end }}
javaOptions: {{ $part.javaOptions | default $root.Values.platform.javaOptions | quote }}
{{- with $part.labels }}
labels: {{- toYaml . | nindent 2 }}
{{- end }}
annotations:
  spike-pipelines.io/spec-hash: {{ include "spike.version" $root | quote }}
  {{- with $part.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Executors on a spot node hand over what they hold; Prometheus reads of them at the driver. */}}
{{- define "spike.sparkConf" -}}
spark.decommission.enabled: "true"
spark.storage.decommission.enabled: "true"
spark.storage.decommission.rddBlocks.enabled: "true"
spark.storage.decommission.shuffleBlocks.enabled: "true"
spark.executor.decommission.forceKillTimeout: 50s
spark.kubernetes.decommission.script: /opt/spike/decommission.sh
spark.ui.prometheus.enabled: "true"
{{- end }}
